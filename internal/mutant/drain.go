//go:build !mutant_drain

package mutant

// DrainOff cuts off what is being answered when a server is told to end.
const DrainOff = false
