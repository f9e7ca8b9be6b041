//go:build mutant_lost

package mutant

const CommitLost = true
