//go:build !mutant_ask

package mutant

// AskOff takes a call that had no answer for refused, and does not ask.
const AskOff = false
