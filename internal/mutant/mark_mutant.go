//go:build mutant_mark

package mutant

const MarkLost = true
