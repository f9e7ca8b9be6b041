//go:build mutant_early

package mutant

const Early = true
