//go:build !mutant_nosync

package mutant

// SyncOff answers before the embedded engine's write is on disk.
const SyncOff = false
