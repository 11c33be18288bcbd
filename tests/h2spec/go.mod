// h2spec and all it is built from, pinned to versions that Debian 12's Go 1.19 builds; newer Go builds them as well.
// h2spec 2.2.1 has no go.mod of its own: without this one, today's dependencies would be taken, and they ask for newer Go.
// Later tags of h2spec cannot be required: their go.mod lacks the /v2 that Go asks of such a version.
module jobmaster/tests/h2spec

go 1.19

require github.com/summerwind/h2spec v2.2.1+incompatible

require (
	github.com/fatih/color v1.16.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/mattn/go-colorable v0.1.13 // indirect
	github.com/mattn/go-isatty v0.0.20 // indirect
	github.com/spf13/cobra v1.8.0 // indirect
	github.com/spf13/pflag v1.0.5 // indirect
	golang.org/x/net v0.22.0 // indirect
	golang.org/x/sys v0.18.0 // indirect
	golang.org/x/text v0.14.0 // indirect
)
