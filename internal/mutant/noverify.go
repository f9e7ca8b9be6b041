//go:build !mutant_noverify

package mutant

// NoVerify lets replies pass without a proof that the node still leads.
const NoVerify = false
