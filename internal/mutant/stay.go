//go:build !mutant_stay

package mutant

// StayWithFirst has a node's sentinel name for ever whom it named first.
const StayWithFirst = false
