//go:build !mutant_lateverify

package mutant

// LateVerify takes any answer to any heartbeat for a proof that a node still leads.
const LateVerify = false
