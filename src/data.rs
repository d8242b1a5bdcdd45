//! Preference data and item files.
