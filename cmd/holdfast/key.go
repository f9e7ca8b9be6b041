package main

import (
	"fmt"

	"github.com/holdfast-dev/holdfast/server"
)

type keyCmd struct {
	New keyNewCmd `cmd:"" help:"Make a key: printed once, with the lines for the configuration."`
}

type keyNewCmd struct {
	Name string `arg:"" help:"Who will call with it: letters, digits, - _ and ."`
}

func (c *keyNewCmd) Run(e *env) error {
	secret, key, err := server.NewKey(c.Name)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.out, "# for the client, shown only now:  Authorization: Bearer %s\n# for the server's --config file:\nkeys:\n  - name: %s\n    sha256: %s\n",
		secret, key.Name, key.SHA256)
	return nil
}
