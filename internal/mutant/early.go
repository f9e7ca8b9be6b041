//go:build !mutant_early

package mutant

// Early lets replies pass that only the leader itself has on its way to the log.
const Early = false
