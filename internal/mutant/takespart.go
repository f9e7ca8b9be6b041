//go:build !mutant_takespart

package mutant

// TakesPart lets limits count a call that another limit refused.
const TakesPart = false
