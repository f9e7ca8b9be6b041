//go:build !mutant_cond

package mutant

// CondOff drops the condition from the UPDATE that reserves a unit.
const CondOff = false
