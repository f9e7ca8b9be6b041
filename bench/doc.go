// Package bench measures, and has nothing to import. `make bench` runs it: every measurement
// takes its turn in each of several rounds, beside the floors and peers that it is compared
// with, and the table of medians is printed and written into docs/benchmarks.md.
package bench
