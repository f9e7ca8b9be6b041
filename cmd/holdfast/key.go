package main

import (
	"fmt"

	"github.com/holdfast-dev/holdfast/server"
)

type keyCmd struct {
	New keyNewCmd `cmd:"" help:"Make a key: shown once, on stderr; the lines for --config go to stdout."`
}

type keyNewCmd struct {
	Name     string `arg:"" help:"Who will call with it: letters, digits, - _ and ."`
	Operator bool   `help:"It may make backups, too."`
}

func (c *keyNewCmd) Run(e *env) error {
	secret, key, err := server.NewKey(c.Name)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.errs, "shown only now, for the client:  Authorization: Bearer %s\n", secret)
	fmt.Fprintf(e.out, "keys:\n  - name: %s\n    sha256: %s\n", key.Name, key.SHA256)
	if c.Operator {
		fmt.Fprintln(e.out, "    operator: true")
	}
	return nil
}
