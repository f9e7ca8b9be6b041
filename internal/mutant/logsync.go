//go:build !mutant_nofsync

package mutant

// LogSyncOff lets the replicated log answer before its entries are on disk.
const LogSyncOff = false
