//! The reward model.
pub mod site;
