//! Function operations-api.
