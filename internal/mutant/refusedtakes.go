//go:build !mutant_refusedtakes

package mutant

// RefusedTakes lets a limit that refuses count what it refused.
const RefusedTakes = false
