//go:build !mutant_lost

package mutant

// HoldLost answers some holds that it has not written.
const HoldLost = false
