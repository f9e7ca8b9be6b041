//go:build !mutant_line

package mutant

// LineOff serves who waits for a lock in no order.
const LineOff = false
