//go:build mutant_limit

package mutant

const LimitOff = true
