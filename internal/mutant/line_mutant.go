//go:build mutant_line

package mutant

const LineOff = true
