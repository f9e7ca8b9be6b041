//go:build !mutant_leasekept

package mutant

// LeaseKept keeps the slot of a caller that is gone.
const LeaseKept = false
