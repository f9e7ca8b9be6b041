package store

// Capabilities is what an engine can do, or will do to its keys, beyond the decisions that
// every engine makes. It is found out when the store is opened, by asking for the thing
// itself and never by a version. The embedded engine has none of it.
type Capabilities struct {
	// Evicts: the engine is set to drop keys when its memory is full (a maxmemory-policy
	// other than noeviction), so a key can be gone before its deadline. False also where
	// the engine does not let its setting be seen; Open logs that.
	Evicts bool
	// Tracking: the engine tells a client when a key that it has read is changed
	// (CLIENT TRACKING), and this user may ask for it.
	Tracking bool
}
