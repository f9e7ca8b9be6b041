//go:build !mutant_guard

package mutant

// GuardOff lets resources take writes of older leases.
const GuardOff = false
