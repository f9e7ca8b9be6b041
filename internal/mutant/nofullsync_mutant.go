//go:build mutant_nofullsync

package mutant

const NoFullSync = true
