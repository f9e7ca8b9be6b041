//go:build mutant_refusedtakes

package mutant

const RefusedTakes = true
