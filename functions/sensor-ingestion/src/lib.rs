//! Function sensor-ingestion.
