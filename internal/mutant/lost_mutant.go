//go:build mutant_lost

package mutant

const HoldLost = true
