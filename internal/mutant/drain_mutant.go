//go:build mutant_drain

package mutant

const DrainOff = true
