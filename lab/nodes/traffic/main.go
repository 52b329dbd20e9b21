// Traffic is both ends of the data plane lab's experiments: the workload on a node and the probes at its client.
//
//	traffic serve PORT...   answers HTTP and TLS requests with its host name and echoes streams, on every port; PORT/udp answers datagrams
//	traffic probe CONFIG    asks until its standard input ends, then prints as JSON what became of every request and stream
//
// It is not a script, so that a machine emulated in software measures the balancer and not its own probes.
package main

import (
	"fmt"
	"os"
	"runtime"
)

func main() {
	// One processor at a time: the lab's machine has two for all its nodes.
	runtime.GOMAXPROCS(1)
	var err error
	switch {
	case len(os.Args) > 2 && os.Args[1] == "serve":
		err = serve(os.Args[2:])
	case len(os.Args) == 3 && os.Args[1] == "probe":
		err = probe(os.Args[2])
	default:
		err = fmt.Errorf("usage: traffic serve PORT... | traffic probe CONFIG")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(1)
	}
}
