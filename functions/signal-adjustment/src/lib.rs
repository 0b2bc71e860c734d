//! Function signal-adjustment.
