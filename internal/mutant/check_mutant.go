//go:build mutant_check

package mutant

const CheckOff = true
