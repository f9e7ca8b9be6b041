//go:build mutant_takespart

package mutant

const TakesPart = true
