//go:build mutant_nosync

package mutant

const SyncOff = true
