//go:build mutant_nofsync

package mutant

const LogSyncOff = true
