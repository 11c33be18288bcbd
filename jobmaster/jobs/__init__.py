"""Generated code; the folder follows the .proto file's path."""
