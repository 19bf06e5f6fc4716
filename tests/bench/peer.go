// Two small Go programs in one file, for the bench: the proxy the wrapper is measured against, and a service.
//
//	peer proxy LISTEN UPSTREAM    net/http/httputil.ReverseProxy with its usual set-up
//	peer service LISTEN           /slow (100 ms), /upload (counts the body), /events (time stamps), / (2 bytes)
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

func proxy(upstream string) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// The default of 2 kept connections a host makes Go reconnect all the time; nobody's proxy should be measured like that.
	transport.MaxIdleConns = 0
	transport.MaxIdleConnsPerHost = 1024
	transport.DisableCompression = true
	target := &url.URL{Scheme: "http", Host: upstream}
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(target)
			request.SetXForwarded()
			request.Out.Host = request.In.Host
		},
	}
}

func service() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) { io.WriteString(answer, "ok") })
	mux.HandleFunc("/slow", func(answer http.ResponseWriter, _ *http.Request) {
		time.Sleep(100 * time.Millisecond)
		io.WriteString(answer, "ok")
	})
	mux.HandleFunc("/upload", func(answer http.ResponseWriter, request *http.Request) {
		count, _ := io.Copy(io.Discard, request.Body)
		fmt.Fprint(answer, count)
	})
	mux.HandleFunc("/events", events)
	return mux
}

// Every 5 ms one event that holds the time it was written at, in ns since the epoch.
func events(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("Content-Type", "text/event-stream")
	flusher := answer.(http.Flusher)
	flusher.Flush()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-request.Context().Done():
			return
		case <-ticker.C:
			fmt.Fprintf(answer, "data: %d\n\n", time.Now().UnixNano())
			flusher.Flush()
		}
	}
}

func main() {
	handler := service()
	if os.Args[1] == "proxy" {
		handler = proxy(os.Args[3])
	}
	log.Fatal(http.ListenAndServe(os.Args[2], handler))
}
