//go:build !mutant_limit

package mutant

// LimitOff lets a buyer have more than the limit.
const LimitOff = false
