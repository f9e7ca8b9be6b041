//go:build mutant_leasekept

package mutant

const LeaseKept = true
