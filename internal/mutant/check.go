//go:build !mutant_check

package mutant

// CheckOff drops the CHECK that a sale is not oversold.
const CheckOff = false
