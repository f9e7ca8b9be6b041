//go:build !mutant_nofullsync

package mutant

// NoFullSync lets an engine go on that holds what was never committed.
const NoFullSync = false
