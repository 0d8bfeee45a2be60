//! A mesh of real nodes on a network of the lab.

pub(crate) mod api;
pub(crate) mod api_stream;
pub(crate) mod fault;
pub(crate) mod form;
pub(crate) mod mail;
pub(crate) mod node;
pub(crate) mod partition;
pub(crate) mod ping;
pub(crate) mod tunnel;
