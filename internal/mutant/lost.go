//go:build !mutant_lost

package mutant

// HoldLost answers one hold in sixteen that it has not written.
const HoldLost = false
