//go:build mutant_lateverify

package mutant

const LateVerify = true
