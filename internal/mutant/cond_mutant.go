//go:build mutant_cond

package mutant

const CondOff = true
