//go:build mutant_fullshare

package mutant

const FullShare = true
