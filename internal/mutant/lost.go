//go:build !mutant_lost

package mutant

// CommitLost answers some holds whose commit does not happen.
const CommitLost = false
