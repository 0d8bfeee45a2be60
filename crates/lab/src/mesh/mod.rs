//! A mesh of real nodes on a network of the lab.

pub(crate) mod api;
pub(crate) mod fault;
pub(crate) mod form;
pub(crate) mod node;
pub(crate) mod ping;
pub(crate) mod tunnel;
