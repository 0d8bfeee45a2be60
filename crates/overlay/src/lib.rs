//! Neighbours, probes, link state, routes and the hop-frame header of Meshara. No IO.
