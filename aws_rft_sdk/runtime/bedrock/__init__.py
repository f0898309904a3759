"""A stand-in for fine-tuning on Bedrock's OpenAI-compatible API, and for the Lambda functions that it calls."""
