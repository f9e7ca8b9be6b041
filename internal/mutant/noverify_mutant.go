//go:build mutant_noverify

package mutant

const NoVerify = true
