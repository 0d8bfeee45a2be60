//! Who may do what: rules, their compiled form, and decisions. It knows nothing of connections.
