"""Generation engines: in process, with one prefill for each prompt."""
